"""The HTTP process: uvicorn, the ASGI application and the served model; and several such workers."""
