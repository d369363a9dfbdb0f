"""Thin faces of `router_core`: LangChain, LlamaIndex, the command line."""

__all__: list[str] = []
