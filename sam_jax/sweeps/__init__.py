"""Many runs of one question: cells, running them, what they found."""
