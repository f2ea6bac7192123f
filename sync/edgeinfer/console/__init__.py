"""The fleet side: ingest of results, the package registry, rollouts, and the page an operator watches."""
