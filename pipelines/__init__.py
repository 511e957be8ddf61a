"""What runs: the graph, its options, sources and sinks, publishing, and the command line."""
