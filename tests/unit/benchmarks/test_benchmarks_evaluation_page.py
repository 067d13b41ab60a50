"""The page of `make evaluate`: what was measured is told, what was not is not invented."""

import json

from benchmarks.evaluation_page import gathered, page, plots, slim


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def arm(name, accuracy, *, num_timed):
    metrics = {one: interval(accuracy) for one in ("accuracy", "em", "f1", "abstained")}
    took = {"calls": 1.0, "tokens": 50.0, "p50_ms": 10.0, "p95_ms": 20.0, "num_timed": num_timed}
    return {"policy": name, "metrics": metrics, "kinds": {"static": interval(0.7)}, **took}


ARMS = {
    "num_questions": 30,
    "metric": "EM",
    "about": {"groups": 20, "without an answer": 3, "questions asked one at a time": 4, "folder": "/somewhere"},
    "arms": [arm("rag", 0.5, num_timed=4), arm("oracle router", 0.8, num_timed=0)],
    "absent": {"finetuned": "no adapter"},
    "findings": ["rag is right more often."],
    "notes": [],
}
SCOPE = {
    "about": {"data": "/somewhere", "scope": "/somewhere/else"},
    "num_inside": 5,
    "num_outside": 6,
    "auroc": interval(0.9),
    "auroc_of_length": interval(0.5),
    "inside_accepted": interval(0.8),
    "outside_rejected": interval(0.7),
    "inside": [0.1],
    "outside": [0.2],
}


def write(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row))


def test_a_page_tells_what_lies_in_the_folders(tmp_path):
    write(tmp_path / "a" / "report" / "arms.json", ARMS)
    write(tmp_path / "a" / "scope" / "scope.json", SCOPE)
    (tmp_path / "a" / "report" / "cost-quality.svg").write_text("<svg/>")
    write(tmp_path / "b" / "report" / "scope.json", SCOPE)
    folders = {name: tmp_path / name for name in ("a", "b")}
    found = {name: gathered(folder) for name, folder in folders.items()}
    assert {name: sorted(row) for name, row in found.items()} == {"a": ["arms", "scope"], "b": ["scope"]}
    text = page(found, ["c was left out: it is not there"])
    assert "| rag | 0.500 [0.400, 0.600] |" in text
    assert "| finetuned | not measured: no adapter |" in text
    assert text.count("AUROC 0.900") == 2
    assert "- c was left out" in text
    assert plots(folders) == {"cost-quality-a": "<svg/>"}


def test_only_arms_that_were_timed_have_times():
    text = page({"a": {"arms": ARMS}}, [])
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "10 / 20" in rows["| rag"]
    assert "10 / 20" not in rows["| oracle router"]


def test_what_is_kept_names_no_folder_and_no_single_distance():
    kept = json.dumps(slim({"arms": ARMS, "scope": SCOPE}))
    assert "/somewhere" not in kept
    assert '"inside":' not in kept
