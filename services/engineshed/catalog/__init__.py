"""The catalog: organizations, API tokens, checkpoints with the holds on them, and templates.

`domain/` decides; `store.py` keeps the read models; the `*_service.py` files answer over gRPC.
From a directory to a checkpoint: `source.py` opens its files, `layout.py` and `weights.py` judge
them, `registration.py` copies and hashes them into the artifact store, and `reclaim.py` removes
the copy when nobody needs it any more.
"""
