"""A replica's front: one Triton as its child, and the text around it.

`front` is its life: start, load, serve, end. A request's way through it: `web` and `exchange`
(bytes), `api` (who may call what), `answering` (from request to response: `requests` and `bodies`
are their JSON), `prompts` and `tokenizer` (tokens), `serving` (all sequences of an answer),
`engine` (Triton); `domain` makes ids text.
"""
