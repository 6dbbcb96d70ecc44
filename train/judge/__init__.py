"""How results are judged: protocol, methods, scores, intervals, reports."""
