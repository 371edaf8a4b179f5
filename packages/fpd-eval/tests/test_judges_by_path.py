"""PickScore, HPSv3 and GenEval 2: small random networks in the published forms, and Soft-TIFA by hand."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from fpd_core.checkpoints import CheckpointError
from fpd_eval.cli import main
from fpd_eval.extractors import load_extractor
from fpd_eval.extractors.hpsv3 import Hpsv3, reward_head
from fpd_eval.geneval.second import SecondPrompt, summarize_second
from fpd_eval.geneval.vqa import VqaJudge
from fpd_eval.images.pairs import Pairs
from fpd_eval.metrics.preference import mean_reward, pick_score
from fpd_eval.metrics.soft_tifa import soft_tifa_am, soft_tifa_gm

CPU = torch.device("cpu")
LINE = {
    "prompt": "four white bicycles",
    "atom_count": 3,
    "vqa_list": [["How many bicycles are in the image?", "four"], ["Are the bicycles white?", "Yes"]],
    "skills": ["count", "attribute"],
}


def picture(seed, size=(40, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size=(*size, 3), dtype=np.uint8))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in argv])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickscore")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"bos_token_id": 52, "eos_token_id": 53, "vocab_size": 54, "max_position_embeddings": 77}
    vision = sizes | {"image_size": 224, "patch_size": 56}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def test_pick_score_is_the_official_formula(clip_folder):
    """logit_scale.exp() * (text_embs @ image_embs.T) of normalised embeddings, texts cut at 77 with their end."""
    pictures, texts = [picture(0), picture(1)], ["a red bench", "many words " * 40]
    found = load_extractor("pickscore", CPU, clip_folder)(Pairs(pictures, texts))
    network, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        batch = processor(
            images=pictures, text=texts, padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        expected = network(**batch).logits_per_image.diagonal()
    score = pick_score(found["images"], found["texts"], float(found["scale"][0, 0]))
    assert score == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A random Qwen2-VL with a vocabulary of a few words, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("chat")
    special = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>", "<|end|>"]
    words = ["?", "Rate", "bench", "red", "four", "Four", "4", "Yes", "yes", "word", "one", "."]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="?", pad_token="<|end|>", additional_special_tokens=special[:4]
    )
    fast.image_token, fast.video_token = "<|image_pad|>", "<|video_pad|>"
    template = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    pixels = {"min_pixels": 56 * 56, "max_pixels": 56 * 56}
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(**pixels), fast, Qwen2VLVideoProcessor(), chat_template=template)
    processor.save_pretrained(folder)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(vocabulary),
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1}
    ids = {"image_token_id": 1, "video_token_id": 3, "vision_start_token_id": 0, "vision_end_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    network.save_pretrained(folder)
    return folder


def test_a_judge_gives_the_probability_of_the_right_words(chat):
    judge = VqaJudge(chat, CPU)
    questions = SecondPrompt.model_validate(LINE).questions
    assert questions[0][1] == ("four", " four", "Four", " Four", "4", " 4")
    found = judge(picture(3), questions)
    assert all(0 < one < 1 for one in found)
    everything = ("?", "Rate", "bench", "red", "four", "Four", "4", "Yes", "yes", "word", "one", ".")
    special = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>", "<|end|>")
    (whole,) = judge(picture(3), [("Rate", (*everything, *special))])
    assert whole == pytest.approx(1, abs=1e-5)
    parts = [judge(picture(3), [(questions[0][0], (word,))])[0] for word in ("four", "Four", "4")]
    assert found[0] == pytest.approx(sum(parts), rel=1e-5)


def test_hpsv3_reads_its_head_at_the_reward_token(chat, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "hpsv3"
    shutil.copytree(chat, folder)
    monkeypatch.setattr("fpd_eval.extractors.hpsv3.PIXELS", 56 * 56)
    (folder / "instruction.txt").write_text("Rate {text_prompt} <|Reward|> one word .")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network, head = Qwen2VLForConditionalGeneration.from_pretrained(chat), reward_head(16)
        network.resize_token_embeddings(18)
    state = {
        key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.contiguous()
        for key, value in network.state_dict().items()
    }
    state |= {f"rm_head.{key}": value for key, value in head.state_dict().items()}
    save_file(state, folder / "HPSv3.safetensors")
    pairs = Pairs([picture(3)], ["red bench"])
    found = Hpsv3(CPU, folder)(pairs)["rewards"]
    assert found.shape == (1, 2)
    assert not torch.equal(found, Hpsv3(CPU, folder)(Pairs([picture(4)], ["red bench"]))["rewards"])
    assert mean_reward(found) == pytest.approx(float(found[0, 0]))
    (folder / "instruction.txt").write_text("Rate it")
    with pytest.raises(CheckpointError, match=r"must hold \{text_prompt\} and <\|Reward\|> once each"):
        Hpsv3(CPU, folder)


def test_soft_tifa_by_hand():
    prompts = [[0.5, 0.5, 1.0], [0.04]]
    assert soft_tifa_am(prompts) == pytest.approx(100 * (2 / 3 + 0.04) / 2)
    assert soft_tifa_gm(prompts) == pytest.approx(100 * (0.25 ** (1 / 3) + 0.04) / 2)
    assert soft_tifa_gm([[0.0, 1.0], [1.0]]) == 50
    assert math.isclose(soft_tifa_gm([[0.3, 0.3]]), soft_tifa_am([[0.3, 0.3]]))
    for wrong in ([], [[]], [[1.5]]):
        with pytest.raises(ValueError, match=r"at least one answer|no probability"):
            soft_tifa_am(wrong)


def test_skills_are_means_over_their_answers():
    prompts = [SecondPrompt.model_validate(LINE)] * 2
    scores = summarize_second(prompts, [[0.5, 1.0], [0.1, 0.2]])
    assert scores.skills == pytest.approx({"attribute": 60, "count": 30})
    assert (scores.prompts, scores.am) == (2, pytest.approx(45))


def test_the_command_takes_answers_found_elsewhere(run, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "answers.jsonl").write_text(json.dumps({"answers": [0.5, 0.5]}) + "\n")
    code, out, err = run("geneval2", "--prompts", "prompts.jsonl", "--answers", "answers.jsonl", "--json")
    assert code == 0, err
    assert json.loads(out)["gm"] == pytest.approx(50)
    assert json.loads(out)["judge"] == "answers.jsonl"


@pytest.mark.parametrize(
    ("prompts", "answers", "arguments", "message"),
    [
        (LINE, {"answers": [1.0]}, ("--answers", "answers.jsonl"), "1 answers to the 2 questions"),
        (LINE, {"answers": [1.0, 2.0]}, ("--answers", "answers.jsonl"), "answers"),
        (LINE | {"skills": ["count"]}, {}, ("--answers", "answers.jsonl"), "2 questions have 1 skills"),
        (LINE | {"atom_count": "x"}, {}, ("--answers", "answers.jsonl"), "prompts.jsonl:1: atom_count"),
        (LINE, {}, (), "give either --images, which a network looks at, or --answers"),
    ],
)
def test_mistakes_end_in_one_sentence(run, tmp_path, prompts, answers, arguments, message):
    (tmp_path / "prompts.jsonl").write_text(json.dumps(prompts) + "\n")
    (tmp_path / "answers.jsonl").write_text(json.dumps(answers) + "\n")
    code, out, err = run("geneval2", "--prompts", "prompts.jsonl", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_preference_asks_for_its_files(run, tmp_path):
    (tmp_path / "captions.txt").write_text("a bench\n")
    code, _, err = run("preference", "--model", "pickscore", "--images", ".", "--prompts", "captions.txt")
    assert code == 2
    assert "pickscore does not exist; get PickScore v1" in err


def test_preference_scores_images(run, tmp_path, clip_folder):
    (tmp_path / "captions.txt").write_text("a bench\ntwo dogs\n")
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    common = ("--model", "pickscore", "--images", tmp_path, "--prompts", "captions.txt", "--weights", clip_folder)
    code, out, err = run("preference", *common, "--json")
    assert code == 0, err
    assert -200 < json.loads(out)["values"]["pick_score"] < 200
