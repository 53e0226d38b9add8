"""Model providers: who answers what components ask through `context.models` (`engine.models`).

    choosing    which provider and model a stage means: stage, pipeline, project, environment
    gateway     what an attempt talks to; its account
    calling     one call: waiting for limits, retrying, measuring
    structured  answers that fit a schema
    limits      what a provider allows
    hub         one event loop in a thread, with the clients and limits of this process
    pricing     what it costs
    base        the port that providers implement: `anthropic`, `openai_compatible`, `llama_cpp`, `vllm`
    engines     engines that answer many at once: the provider in front of one, wherever it runs
    in_words    conversations and tools for models that read nothing but text

Importing this package imports no SDK; each is imported by the one module that needs it, when it is first asked.
"""
