"""Holds the API's requests and responses as values, and reads them whatever their shape.

Makes no network call. Secrets, schemas and prices of a request are read here too.
"""
