// The tokenizer of a closed vocabulary, as fpd_core/networks/scene_text.py has it.

/** Token ids of a prompt, padded. Throws an Error that says what is wrong. */
export function tokenize(prompt, vocabulary) {
  const words = prompt.toLowerCase().replaceAll(",", " ").replace(/[. ]+$/, "").split(/\s+/).filter(Boolean);
  const unknown = words.find((word) => !Object.hasOwn(vocabulary.tokens, word));
  if (unknown !== undefined) throw new Error(`This model does not know the word “${unknown}”.`);
  if (words.length > vocabulary.context_length) {
    throw new Error(`${words.length} words; this model reads ${vocabulary.context_length}.`);
  }
  const ids = new Array(vocabulary.context_length).fill(vocabulary.padding);
  words.forEach((word, place) => (ids[place] = vocabulary.tokens[word]));
  return ids;
}
