"""A Dockerfile as its instructions, and what an image that it makes is started with."""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.process.command import ROOT

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


class Instruction(NamedTuple):
    """`text` is what follows the keyword, its lines joined."""

    keyword: str
    text: str


def stages(file: Path = DOCKERFILE) -> list[list[Instruction]]:
    """The instructions from each FROM to the next; what stands before the first is left out."""
    kept = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[Instruction]] = []
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction = Instruction(*line.split(maxsplit=1))
        if instruction.keyword == "FROM":
            found.append([])
        elif found:
            found[-1].append(instruction)
    return found


def texts(stage: list[Instruction], keyword: str) -> list[str]:
    return [instruction.text for instruction in stage if instruction.keyword == keyword]


def sources(stage: list[Instruction]) -> list[str]:
    """What is copied from the repository."""
    copies = [text for text in texts(stage, "COPY") if not text.startswith("--from=")]
    return [source for text in copies for source in shlex.split(text)[:-1]]


class Image(NamedTuple):
    """Of the last stage."""

    variables: dict[str, str]
    command: list[str]
    health: list[str]
    stop_signal: str
    user: str


def image() -> Image:
    last = stages()[-1]
    (health,) = texts(last, "HEALTHCHECK")
    (entry,), (arguments,) = texts(last, "ENTRYPOINT"), texts(last, "CMD")
    (stop_signal,), (user,) = texts(last, "STOPSIGNAL"), texts(last, "USER")
    variables = dict(word.split("=", 1) for text in texts(last, "ENV") for word in shlex.split(text))
    listed = re.search(r"CMD (\[.*\])", health)
    assert listed
    return Image(variables, [*json.loads(entry), *json.loads(arguments)], json.loads(listed[1]), stop_signal, user)
