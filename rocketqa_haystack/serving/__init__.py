"""A pipeline as a service: batching, the question's way through the pipeline, the REST routes, and the page."""
