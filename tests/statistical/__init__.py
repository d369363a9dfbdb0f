"""Statistical guarantees, each with a mutant: the broken rule, which must fail the same check."""
