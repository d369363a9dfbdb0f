"""Thin faces of the core: LangChain, the command line."""

__all__: list[str] = []
