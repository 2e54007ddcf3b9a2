"""The load test of `diptych.loadtest`, for servers that speak other protocols than Diptych's."""
