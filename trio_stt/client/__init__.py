"""A client of the native dialect.

`connection` opens one stream on Trio, for as long as its connection lasts. `resuming_connection` (Trio) and
`asyncio_connection` keep a stream through the loss of connections and servers: docs/resume.md.
"""
