from gemma3n_appliance.bench.report import Row, table

QUICK = Row("first token", "ms", [20, 10, 30], [80, 100, 60], "a peer")
MANY = Row("all together", "tokens/s", [200], [50], "a peer", more_is_better=True)
ALONE = Row("/health, p99", "ms", [7.849])


def test_a_ratio_says_how_many_times_better_the_median_is():
    assert QUICK.ratio == 4
    assert MANY.ratio == 4
    assert ALONE.ratio is None


def test_a_table_is_markdown_with_columns_of_one_width():
    assert table([QUICK, MANY, ALONE]).splitlines() == [
        "| what         | ours         | peer        | ratio | peer is |",
        "| ------------ | ------------ | ----------- | ----- | ------- |",
        "| first token  | 20 ms        | 80 ms       | 4.00× | a peer  |",
        "| all together | 200 tokens/s | 50 tokens/s | 4.00× | a peer  |",
        "| /health, p99 | 7.85 ms      |             |       |         |",
    ]


def test_json_has_every_round():
    assert QUICK.as_json() == {
        "what": "first token",
        "unit": "ms",
        "peer": "a peer",
        "medians": {"ours": 20, "peer": 80},
        "rounds": {"ours": [20, 10, 30], "peer": [80, 100, 60]},
        "ratio": 4,
    }
