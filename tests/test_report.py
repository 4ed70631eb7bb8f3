"""What the report says of findings that are written by hand."""

import re

import pytest

from archipelago.cli.progress import line as told
from archipelago.report.findings import (
    ClientScore,
    Findings,
    Interval,
    LabelCounts,
    Reference,
    Shipped,
)
from archipelago.report.html import render
from archipelago.report.verdict import verdict


def line(name, macs):
    return Reference(
        name=name,
        score=0.8,
        low=0.7,
        high=0.9,
        difference=0.1,
        difference_low=0.05,
        difference_high=0.15,
        cost=20.0,
        macs=macs,
    )


def found(clients=6, **changes):
    values = {
        "name": "x",
        "metric": "accuracy",
        "seed": 1,
        "candidates": (),
        "percent": True,
        "test": Interval(value=0.9, low=0.8, high=0.95),
        "cost": 40.0,
        "macs": 1000.0,
        "client_test": tuple(
            ClientScore(name=f"c{i}", rows=5, score=0.5 + i / 100) for i in range(clients)
        ),
    }
    return Findings(**values | changes)


def test_equal_cost_is_said_only_where_it_is_equal():
    _, equal, _ = verdict(found(references=(line("a", 905.0), line("b", 1095.0))))
    assert equal.startswith("At equal client cost it is better than a (+10.0 points")
    assert "of our client cost" not in equal
    _, less, _ = verdict(found(references=(line("a", 950.0), line("b", 453.0))))
    assert less.startswith("At equal client cost, where no other share is stated, it is better")
    assert "b (+10.0 points, +5.0 to +15.0; at 45 % of our client cost)" in less
    assert "a (+10.0 points, +5.0 to +15.0)" in less
    assert "equal client cost it is" in verdict(found(references=(line("a", None),)))[1]


def test_the_table_of_lines_begins_with_our_own():
    page = render(found(references=(line("b", 453.0),))).split("<script>")[0]
    rows = re.findall(r"<tr><td>(this search|b)</td>(.*?)</tr>", page)
    assert [name for name, _ in rows] == ["this search", "b"]
    assert "<td>40 virtual client-seconds</td><td>1,000</td><td>100 %</td>" in rows[0][1]
    assert "<td>20 virtual client-seconds</td><td>453</td><td>45 %</td>" in rows[1][1]


def test_intervals_are_said_to_come_from_clients_and_to_be_coarse_where_these_are_few():
    *_, many = verdict(found(clients=5))
    assert "the intervals come from drawing whole clients again" in many
    assert "test rows" not in many
    assert "coarse" not in many
    *_, few = verdict(found(clients=4))
    assert "with 4 clients they are coarse" in few


@pytest.mark.parametrize(
    "labels", [None, LabelCounts(clients=("c",), labels=("l",), counts=((3,),))]
)
def test_the_note_on_label_skew_stands_under_its_chart(labels):
    page = render(found(label_counts=labels)).split("<script>")[0]
    note = "Showing how labels are spread over clients"
    if labels is None:
        assert note not in page
    else:
        figure = page[page.index("<figure><h2>Label skew") :]
        assert note in figure[: figure.index("</figure>")]


def test_the_exported_files_difference_is_shown_beside_what_is_allowed():
    about = {"path": "model.onnx", "bytes": 900, "max_difference": 14000.0, "rows": 9}
    page = render(found(shipped=Shipped(**about, relative=3e-6, tolerance=1e-4)))
    assert "<td>1.4e+04</td><td>3e-06 (1e-04 allowed)</td><td>9</td>" in page
    assert "<td>1.4e+04</td><td>–</td><td>9</td>" in render(found(shipped=Shipped(**about)))
    said = told("exported", {**about, "relative": 3e-6, "tolerance": 1e-4})
    assert "at most 1.4e+04 (3.0e-06 of the largest logit; 1e-04 allowed)" in said
