"""The exported model: graph, parity with evaluate, predictor, command line."""
