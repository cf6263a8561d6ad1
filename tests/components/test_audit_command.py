"""`skipwise audit` as a user types it."""

import re

from tests.conftest import random_sessions


def test_three_sentences_and_no_file_without_output(make_dataset, run, tmp_path, monkeypatch):
    data = make_dataset(random_sessions(200, 40), 40)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = run("audit", "--data", str(data))
    assert done.code == 0 and "counting: 200 sessions" in done.said
    assert re.search(r"Listeners skip .* %.* Whether .* AUC .* With 200 test sessions.* with three\.", done.said)
    assert sorted(tmp_path.iterdir()) == before and "add --output DIR to keep the tables" in done.said
    done = run("audit", "--data", str(data), "--output", "out")
    assert done.code == 0 and "wrote out/audit.md, audit.json and audit.png" in done.said
    strengths = re.findall(r"^\| ([0-3]) \| ([\d,]+) \| ([\d.]+) %", (tmp_path / "out" / "audit.md").read_text(), re.M)
    plays = [int(count.replace(",", "")) for _, count, _ in strengths[:4]]
    assert [name for name, *_ in strengths[:4]] == ["0", "1", "2", "3"]
    assert [f"{100 * count / sum(plays):.1f}" for count in plays] == [share for *_, share in strengths[:4]]


def test_refused_in_one_sentence(make_dataset, run, tmp_path):
    kept = make_dataset([([0, 1, 2, 3], [0, 0, 0, 0])] * 20, 9)
    done = run("audit", "--data", str(kept), "--output", str(tmp_path / "out"))
    assert done.code == 2 and "all 40 training plays are kept: expected both kinds" in done.said
    assert not (tmp_path / "out").exists()
    assert "cannot be read" in run("audit", "--data", "missing").said
    for words in ((), ("--data", str(kept), "--run", "a", "b")):
        done = run("audit", *words)
        assert done.code == 2 and "--data must name a dataset directory, or --run two run directories" in done.said
    assert "--run must name two runs or more" in run("audit", "--run", "a").said
    assert "give a number" in run("audit", "--run", "a", "b", "--dial", "auto").said
    assert "name them by --run" in run("audit", "--data", str(kept), "--dial", "1").said
    assert "a run directory that train wrote" in run("audit", "--run", "a", "--run", "b").said
