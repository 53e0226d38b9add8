"""Vector stores: where chunks of documents lie with their embeddings, and are found again by meaning, words and metadata.

`port` is what every store offers, `filters` what a condition on metadata means, `sqlite` and `pgvector` are the two stores.
One suite holds both to it (`flowmason_ray.testing.conformance.vector_stores`). What lives here knows nothing of stages.
"""
