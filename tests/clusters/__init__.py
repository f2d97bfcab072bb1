"""Real clusters on this machine, for tests: Flink, Spark, Prism and an S3 server, each started, watched and ended."""
