# The project and its environment. Untested: no image has been built of it.
#     docker build --tag classifiers .
#     docker run --name run classifiers make quick && docker cp run:/project/outputs .
FROM python:3.11.13-slim-bookworm

# git: DVC asks for it. libgomp1: LightGBM's threads.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgomp1 make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user \
    && install --directory --owner=user --group=root --mode=2775 /project
USER 1000
WORKDIR /project

COPY --chown=user:root Makefile requirements.in requirements.txt ./
RUN make .venv/installed && rm -rf ~/.cache
COPY --chown=user:root . .
# The first also where a copied requirements.txt is the younger one. Then `docker run --user` with another number works,
# because Docker gives an unknown user the group root.
RUN touch .venv/installed && find . -path ./.venv -prune -o -exec chmod g=u {} +

CMD ["make"]
