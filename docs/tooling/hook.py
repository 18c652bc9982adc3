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
LANGUAGES = {".toml": "toml", ".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".conf": "nginx"}


def _outside(config: Any, markdown: str) -> set[str]:
    root = Path(config.config_file_path).parent
    return {target for _, target, _ in LINK.findall(markdown) if (root / target).is_file()}


def _page(root: Path, target: str) -> str:
    text = (root / target).read_text()
    if target.endswith(".md"):
        return text
    return f"# {target}\n\n````{LANGUAGES.get(Path(target).suffix, 'text')}\n{text.rstrip()}\n````\n"


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.config_file_path).parent
    pages = [file.content_string for file in files.documentation_pages()]
    for target in sorted({target for text in pages for target in _outside(config, text)}):
        name = f"source/{target.removesuffix('.md')}.md"
        files.append(File.generated(config, name, content=_page(root, target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    outside = _outside(config, markdown)

    def inside(found: re.Match[str]) -> str:
        target = found[2]
        return f"](source/{target.removesuffix('.md')}.md)" if target in outside else found[0]

    def titled(found: re.Match[str]) -> str:
        file = files.get_file_from_path(found[1])
        title = TITLE.search(file.content_string) if file else None
        return f"[{title[1]}]({found[1]}" if title else found[0]

    shown = "\n".join(
        CELL_CODE.sub(lambda code: code[0].replace(r"\|", "|"), line) if line.startswith("|") else line
        for line in markdown.split("\n")
    )
    return NAMED.sub(titled, LINK.sub(inside, shown))
