"""The process that serves HTTP: uvicorn, the application, the served model, and several workers of them."""
