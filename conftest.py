"""Names the harness's pytest plugins; no logic."""

pytest_plugins = ["harness.options", "harness.collect"]
