"""What a model wrote, as HTML in which nothing it wrote acts: the security border of the package.

Markdown goes in, HTML comes out, made of elements and attributes that are all written here. Imports
nothing else of the package.
"""
