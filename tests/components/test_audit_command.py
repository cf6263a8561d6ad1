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
    assert sorted(tmp_path.iterdir()) == before


def test_refused_in_one_sentence(make_dataset, run, tmp_path):
    kept = make_dataset([([0, 1, 2, 3], [0, 0, 0, 0])] * 20, 9)
    done = run("audit", "--data", str(kept), "--output", str(tmp_path / "out"))
    assert done.code == 2 and "all 40 training plays are kept: expected both kinds" in done.said
    assert not (tmp_path / "out").exists()
    assert "cannot be read" in run("audit", "--data", "missing").said
