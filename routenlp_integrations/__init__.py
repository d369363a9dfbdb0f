"""Thin faces of the core: LangChain, LlamaIndex, notebooks, the command line; here, what both frameworks share."""

__all__: list[str] = []
