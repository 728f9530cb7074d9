"""What differs between providers: headers, bodies and error formats.

The rule modules (`headers`, `bodies`, `error_facts`, and in `protocol` `sse`, `tap`, `content_coding`) are pure: bytes
in, bytes or facts out. They open no connections and decide nothing about routes.
"""
