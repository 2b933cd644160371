"""The loop: observe, plan (pure), perform, write the status. No XML, no SQL."""
