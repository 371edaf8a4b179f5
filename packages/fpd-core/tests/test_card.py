"""Model cards: the licence is inherited, the hub's own parser reads the front matter, results are merged by what they
are of."""

from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from fpd_core.card import front_matter, parts_of, plain_card, write_results
from fpd_core.checkpoints import CheckpointError
from fpd_core.teachers import TEACHERS, teacher_config

ASSETS = Path(__file__).resolve().parents[3] / "assets"


@pytest.mark.parametrize(
    ("family", "licence", "base", "tag"),
    [
        ("maskgit", "mit", "llvictorll/Maskgit-pytorch", "unconditional-image-generation"),
        ("halton", "mit", "llvictorll/Halton-MaskGIT", "unconditional-image-generation"),
        ("maskgen", "other", "turkeyju/generator_maskgen_vq_l", "text-to-image"),
        ("meissonic", "other", "MeissonFlow/Meissonic", "text-to-image"),
    ],
)
def test_a_student_inherits_the_licence_and_the_repositories_of_its_teacher(family, licence, base, tag):
    card = ModelCard(plain_card({"name": family}))
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (licence, "fpd", tag)
    assert base in card.data.base_model
    for part in parts_of(teacher_config(family)):
        assert f"| {part.what} | {part.source} | {part.licence} |" in card.text
    if licence == "other":  # the hub asks for a name and a place of such a licence
        assert card.data.license_name
        assert base in card.data.license_link


def test_a_bundled_teachers_licence_is_that_of_its_card(monkeypatch, tmp_path):
    monkeypatch.chdir(ASSETS.parent)
    assert front_matter(teacher_config("fashion")).license == "apache-2.0"
    for name in ("README.md", "model.safetensors"):
        (tmp_path / name).write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    mine = front_matter(teacher_config({"name": "fashion", "path": str(tmp_path)}))
    assert (mine.license, mine.license_name) == ("cc-by-nc-4.0", None)
    (tmp_path / "README.md").unlink()
    unknown = plain_card({"name": "fashion", "path": str(tmp_path)})
    assert ModelCard(unknown).data.license == "other"
    assert "not known" in unknown


def test_every_family_has_a_card():
    for name in TEACHERS:
        assert ModelCard(plain_card({"name": name})).data.tags[:2] == ["masked-diffusion", "one-step"]
    assert ModelCard(plain_card({})).data.license == "other"


def result(metric, value, **how):
    return EvalResult(
        task_type="text-to-image",
        dataset_type="small",
        dataset_name="small",
        metric_args={"steps": 1, **how},
        metric_type=metric,
        metric_name=metric,
        metric_value=value,
    )


def test_results_join_a_card_and_replace_older_ones_of_the_same(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# mine\n\nwords\n")
    write_results(tmp_path, "metrics", [result("fid", 3.5), result("is", 9.0)], "| fid |\n| 3.5 |")
    write_results(tmp_path, "geneval", [result("overall", 0.5)], "| overall |")
    write_results(tmp_path, "metrics", [result("fid", 2.5), result("fid", 2.0, seed=1)], "| fid |\n| 2.5 |")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.tags) == ("mit", ["a"])
    found = [(one.metric_type, one.metric_value, one.metric_args) for one in card.data.eval_results]
    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [
                ("fid", 2.5, {"steps": 1}),
                ("is", 9.0, {"steps": 1}),
                ("overall", 0.5, {"steps": 1}),
                ("fid", 2.0, {"steps": 1, "seed": 1}),
            ],
        )
    )
    assert card.text.count("## metrics") == card.text.count("## geneval") == 1
    assert "| 2.5 |" in card.text
    assert "| 3.5 |" not in card.text
    assert card.text.index("words") < card.text.index("## metrics") < card.text.index("## geneval")


def test_a_card_without_front_matter_gets_one_and_a_damaged_one_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="not a weight folder"):
        write_results(tmp_path, "m", [], "")
    (tmp_path / "config.json").write_text("{}")
    write_results(tmp_path, "m", [result("fid", 1.0)], "table")
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == 1.0
    (tmp_path / "README.md").write_text("---\na: [1\n---\n")
    with pytest.raises(CheckpointError, match=r"README.md: its front matter is damaged"):
        write_results(tmp_path, "m", [], "")
