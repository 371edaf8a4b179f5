// The tokenizer of a closed vocabulary, as fpd_core/networks/scene_text.py has it.

/** A word's tokens: a plural that is no token is its stem and the ending. */
function split(word, tokens) {
  const known = (piece) => Object.hasOwn(tokens, piece);
  const stem = ["s", "es"].filter((e) => word.endsWith(e)).map((e) => word.slice(0, -e.length)).find(known);
  return stem !== undefined && known("+s") && !known(word) ? [stem, "+s"] : [word];
}

/** Token ids of a prompt, padded. Throws an Error that says what is wrong. */
export function tokenize(prompt, vocabulary) {
  const words = prompt.toLowerCase().replaceAll(",", " ").replace(/[. ]+$/, "").split(/\s+/).filter(Boolean)
    .flatMap((word) => split(word, vocabulary.tokens));
  const unknown = words.find((word) => !Object.hasOwn(vocabulary.tokens, word));
  if (unknown !== undefined) throw new Error(`This model does not know the word “${unknown}”.`);
  if (words.length > vocabulary.context_length) {
    throw new Error(`${words.length} tokens; this model reads ${vocabulary.context_length}.`);
  }
  const ids = new Array(vocabulary.context_length).fill(vocabulary.padding);
  words.forEach((word, place) => (ids[place] = vocabulary.tokens[word]));
  return ids;
}
