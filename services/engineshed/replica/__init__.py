"""A replica's front: one Triton as its child, and the text around it.

`front` is its life: start, load, serve, end. A request's way through it: `http` (bytes), `openai`
(bodies), `prompts` (tokens), `serving` (answers), `engine` (Triton); `domain` makes ids text.
"""
