"""What fault tests cannot see with a few messages: each delivery of a long run, across workers and a restart.

The load scenario `resume` in a size that the suite has time for; `make bench` runs it larger, and by hand to a million.
"""

from loadtests import resume

SIZE = resume.Size(messages=50_000, subscribers=20)


def test_twenty_subscribers_that_come_and_go_miss_nothing_of_fifty_thousand_messages_unless_they_are_told() -> None:
    result = resume.run(SIZE, lambda line: None)
    assert result.ok, result
    found = {row.name: row.value for row in result.rows}
    assert found["resumes: recovered"] > 100
    assert found["resumes: recovered false, and the window was exceeded"] > 0
    assert found["deliveries checked"] + found["messages told to be missing"] == 50_000 * 20
