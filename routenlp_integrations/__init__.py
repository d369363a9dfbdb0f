"""Thin faces of `router_core`: LangChain, LlamaIndex, the command line."""
