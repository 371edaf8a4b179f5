"""What mkdocs also does: pages from outside docs/, a notebook as a page, `llms.txt`, Markdown of each page."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from markdownify import markdownify
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("CHANGELOG.md", "SECURITY.md")  # files of the repository that are pages of the site, too
NOTEBOOK = "tutorials/first-steps"
pages: list[tuple[str, str, str]] = []  # title, address, first sentence


def on_config(config: Any) -> None:
    """Pages of the navigation that this checkout lacks are left out of it."""
    generated = {*BESIDE, f"{NOTEBOOK}.md"}

    def there(item: Any) -> bool:
        place = next(iter(item.values()))
        return not isinstance(place, str) or place in generated or (Path(config.docs_dir) / place).is_file()

    config.nav = [{title: [one for one in part if there(one)] if isinstance(part, list) else part}
                  for entry in config.nav for title, part in entry.items()]  # fmt: skip
    pages.clear()


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from elsewhere and the notebook's."""
    for name in BESIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    notebook = files.get_file_from_path(f"{NOTEBOOK}.ipynb")
    assert notebook is not None
    text, pictures = _notebook(json.loads(notebook.content_string))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to the repository's own pages lead to the site's."""
    if page.file.src_uri in BESIDE:
        return markdown.replace("](docs/", "](")
    up = "../" * page.file.src_uri.count("/")
    for name, target in {"README.md": "index.md", **{one: one for one in BESIDE}}.items():
        markdown = markdown.replace(f"](../{up}{name}", f"]({up}{target}")
    markdown = markdown.replace("first-steps.ipynb)", "first-steps.md)")
    return re.sub(rf"\[([^]]+)\]\(\.\./{up}(?:examples|configs|packages)[^)]*\)", r"\1", markdown)  # not pages


def on_post_page(output: str, page: Any, config: Any) -> None:
    """Writes the page's Markdown beside it: as it was written, or, of the reference, what the docstrings became."""
    source = page.markdown
    if ":::" in source:
        content = re.sub(r"<a[^>]*headerlink[^>]*>.*?</a>", "", page.content, flags=re.S)
        text = markdownify(content, heading_style="ATX").replace(".html", ".md")
        source = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    target = Path(config.site_dir) / page.file.src_uri
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source)
    pages.append((page.title, page.file.src_uri, _first_sentence(source)))


def on_post_build(config: Any) -> None:
    """Writes `llms.txt`: what this is, and where the Markdown of every page lies."""
    lines = [f"- [{title}]({address}): {sentence}" for title, address, sentence in pages]
    text = f"# {config.site_name}\n\n> {config.site_description}\n\n## Pages\n\n" + "\n".join(lines) + "\n"
    (Path(config.site_dir) / "llms.txt").write_text(text)


def _first_sentence(text: str) -> str:
    prose = re.search(r"^[A-Z*][^\n]*(?:\n[^\n#|`]+)*", re.sub(r"^#.*$", "", text, flags=re.M), re.M)
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose.group() if prose else "").replace("\n", " ").replace("*", "")
    return re.split(r"(?<=[.:])\s", plain, maxsplit=1)[0]


def _notebook(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    parts, pictures = [], dict[str, bytes]()
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"first-steps-{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the cell above drew]({name})")
            elif plain := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{plain.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures
