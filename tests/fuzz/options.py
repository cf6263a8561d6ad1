"""Options of `prepare`, most of them sound, some of them such as nobody should give."""

from hypothesis import strategies as st

SOUND = [
    words.split()
    for words in """
    --sort
    --on-error skip
    --on-error session
    --on-error cut --on-missing-track skip
    --null NA
    --where session_position>0
    --on-error skip --sort
    --on-error skip --context
    --min-length 4
    --drop-longer 5
    --max-length 3
    --require-skip
    --sample 2 --seed 1
    --split session --test-share 0.4 --validation-share 0.4
    --order strength --sort --split time --validation-from 1 --test-from 3
    --sort --drop-duplicate-plays
    --drop-duplicate-sessions
    --context
    --context premium strength
    --order file
    --order strength --gap 2s
    --order hour_of_day --gap 1m --time-unit ms
    --skip-strength strength
    --rating strength --skip-below 2
    --skip premium
    --kept premium --played strength --skip-under 2s --played-unit s
    --reason strength --skip-reasons 1 2
    --threads 1
    --columns session_id session_position track_id_clean
    --columns session_id session_position track_id_clean strength
    """.strip().splitlines()
]
FLAGS = """columns session track order sort gap time-unit skip skip-strength rating skip-below context min-length
    drop-longer require-skip sample seed split test-share validation-share test-from validation-from
    drop-duplicate-plays drop-duplicate-sessions max-length on-error memory threads overwrite input output
    on-missing-track null where kept reason skip-reasons played duration skip-under played-unit vocabulary nonsense"""
WORDS = "-1 0 3 NaN inf -inf 1e308 2.5 abc ' \" ;-- None 0s 30m strength session_id premium ../.. . / \udcff é\n"
VALUES = [
    *WORDS.split(" "),
    "",
    "a b",
    "9" * 30,
    "9" * 5000,
    "x" * 5000,
    "9" * 400 + "d",
    "\N{ARABIC-INDIC DIGIT THREE}m",
]

odd = st.tuples(st.sampled_from(FLAGS.split()), st.lists(st.sampled_from(VALUES), max_size=2)).map(
    lambda pair: [f"--{pair[0]}", *pair[1]]
)
mixed = st.lists(st.one_of(st.sampled_from(SOUND), odd), min_size=1, max_size=3).map(lambda groups: sum(groups, []))
options = st.one_of(st.just([]), st.sampled_from(SOUND), mixed)
"""Words for a command line, after `--input` and `--output`."""
