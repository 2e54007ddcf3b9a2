# Builds wheels in one stage and runs them in another, as a user without rights.
# docs/docker.md has the lines that run it, with and without the kernel's page tracking.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY client client
COPY server server
RUN python -m venv /opt/diptych \
 && /opt/diptych/bin/pip install --no-cache-dir -c constraints.txt ./client . \
 && rm -rf /opt/diptych/share

FROM python:${PYTHON}-slim
# A cache of compiled kernels that the server's user may write: the first start on another kind of
# processor compiles anew.
ENV PATH=/opt/diptych/bin:$PATH \
    NUMBA_CACHE_DIR=/var/cache/diptych \
    PYTHONUNBUFFERED=1 \
    DIPTYCH_LISTEN=0.0.0.0:7171
RUN useradd --system --uid 7171 --home-dir /app --create-home diptych \
 && install -d -o diptych -g diptych /var/cache/diptych /data
COPY --from=build /opt/diptych /opt/diptych
COPY examples /app
USER diptych
WORKDIR /app
# Compiles the kernels into the cache: a start takes a second then.
RUN printf 'import exchange, diptych.testing\nwith diptych.testing.running(exchange.app): pass\n' | python -
EXPOSE 7171
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["diptych", "call", "127.0.0.1:7171"]
ENTRYPOINT ["diptych"]
CMD ["serve", "exchange:app"]
