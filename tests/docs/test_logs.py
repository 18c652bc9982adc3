"""docs/logs.md says every event that there is, and what it shows can be pasted."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.log_lines import lines
from tests.tools.log_reference import events

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "logs.md").read_text()
MEMBERS = ("ts", "level", "event", "logger", "process", "pid")
SAID = """\
{"ts": "t", "level": "error", "event": "child died", "process": "supervisor", "child": "worker 1", "how": "was ended"}
{"ts": "t", "level": "error", "event": "reload refused", "process": "supervisor", "problem": "limits.x: unknown key"}
{"ts": "t", "level": "info", "event": "session ended", "process": "broker", "cause": "too_slow"}
{"ts": "t", "level": "info", "event": "session ended", "process": "broker", "cause": "peer_closed"}
{"ts": "t", "level": "info", "event": "session ended", "process": "broker", "cause": "too_slow"}
"""


def test_the_table_has_every_event_of_the_code_with_its_level_and_fields() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", PAGE, re.MULTILINE)
    told = [(event, level, fields.replace("`", "").strip()) for event, level, fields in rows]
    assert told == sorted(events(ROOT))


def test_no_field_hides_a_member_that_every_line_has() -> None:
    assert not {name for event in events(ROOT) for name in event.fields.split()} & {*MEMBERS, "**"}


def test_the_line_that_is_shown_is_one_of_those() -> None:
    (shown,) = lines("\n".join(re.findall(r"```json\n(.+)\n```", PAGE)))
    (event,) = [event for event in events(ROOT) if event.text == shown["event"]]
    assert tuple(shown) == (*MEMBERS, *event.fields.split())


def test_the_questions_for_jq_are_answered(tmp_path: Path) -> None:
    (tmp_path / "broker.log").write_text(SAID)
    (block,) = re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL)
    shell = shutil.which("sh")
    assert shell is not None
    answers = [
        subprocess.run([shell, "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for line in block.strip().splitlines()
    ]
    assert answers == [
        "t supervisor: child died\nt supervisor: reload refused\n",
        "worker 1 was ended\n",
        "limits.x: unknown key\n",
        '{\n  "peer_closed": 1,\n  "too_slow": 2\n}\n',
    ]
