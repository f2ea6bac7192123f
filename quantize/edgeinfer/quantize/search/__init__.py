"""The search for the best variant, free of input and output: what to try next, when it is settled, what to choose.

`ladder` gives orders and is told what came of them; `goal` is what is asked for; `verdicts` decide in the end.
"""
