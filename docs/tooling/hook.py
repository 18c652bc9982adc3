"""What the site has beyond the pages of docs/: the files outside of it that pages link to, each as a page.

mkdocs calls this (`hooks` in mkdocs.yml). A page links to ../config/broker.toml, as GitHub wants it; here that file
becomes source/config/broker.toml, shown as code, and the link leads there. A link to what is not there stays as it is,
and the strict build names it.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(\]\()\.\./([\w./-]+)(\))")
# A link whose text is the name of a page, as GitHub's readers like it, reads as the page's title here.
NAMED = re.compile(r"\[([\w-]+\.md)\]\(\1(?=[#)])")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
# In code in a table GitHub wants `\|`; Python-Markdown splits no code at `|` and shows the backslash.
CELL_CODE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
LANGUAGES = {
    ".toml": "toml",
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".sh": "sh",
    ".conf": "nginx",
    ".service": "ini",
    ".socket": "ini",
}


def _outside(root: Path, markdown: str) -> set[str]:
    """The files and folders of the repository that this text links to; index.md has README's place here."""
    found = {target.rstrip("/") for _, target, _ in LINK.findall(markdown)}
    return {target for target in found if (root / target).exists() and target != "README.md"}


def _place(root: Path, target: str) -> str:
    if (root / target).is_dir():
        return f"source/{target}/index.md"
    return f"source/{target.removesuffix('.md')}.md"


def _page(root: Path, target: str) -> str:
    path = root / target
    if path.is_dir():
        files = sorted(one.name for one in path.iterdir() if one.is_file())
        return f"# {target}\n\n" + "\n".join(f"- [{name}]({name.removesuffix('.md')}.md)" for name in files) + "\n"
    text = path.read_text()
    if target.endswith(".md"):
        # Its links are relative to the top level: to pages they lead there, what else they name is no link here.
        text = text.replace("](docs/", "](../")
        return re.sub(r"\[([^\]]+)\]\((?!https?:|#|\.\./)[^)]+\)", r"\1", text)
    return f"# {target}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n````\n"


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.config_file_path).parent
    targets = set().union(*(_outside(root, file.content_string) for file in files.documentation_pages()))
    for folder in [target for target in targets if (root / target).is_dir()]:
        targets |= {f"{folder}/{one.name}" for one in (root / folder).iterdir() if one.is_file()}
    for target in sorted(targets):
        files.append(File.generated(config, _place(root, target), content=_page(root, target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    root = Path(config.config_file_path).parent
    outside = _outside(root, markdown)

    def inside(found: re.Match[str]) -> str:
        target = found[2].rstrip("/")
        if target == "README.md":
            return "](index.md)"
        return f"]({_place(root, target)})" if target in outside else found[0]

    def titled(found: re.Match[str]) -> str:
        file = files.get_file_from_path(found[1])
        title = TITLE.search(file.content_string) if file else None
        return f"[{title[1]}]({found[1]}" if title else found[0]

    shown = "\n".join(
        CELL_CODE.sub(lambda code: code[0].replace(r"\|", "|"), line) if line.startswith("|") else line
        for line in markdown.split("\n")
    )
    return NAMED.sub(titled, LINK.sub(inside, shown))
