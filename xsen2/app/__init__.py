"""A local web app: draw an area, pick scenes, and look at them at 10 m; the library's calls behind a page.

Needs ``pip install 'xsen2[app]'``; ``xsen2 app`` starts it.
"""
