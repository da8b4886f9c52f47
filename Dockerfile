# One image for API, worker and migrations: `docker build -t retinue .`
# Node.js runs the TypeScript sources as they are, so there is nothing to compile but the database client's types.

FROM node:24.21.0-alpine AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY prisma.config.ts ./
COPY prisma prisma
COPY src src
# Generating needs no schema engine, but looks for one and would download it: this one does nothing.
RUN PRISMA_SCHEMA_ENGINE_BINARY=/bin/true CHECKPOINT_DISABLE=1 node node_modules/prisma/build/index.js generate

FROM node:24.21.0-alpine AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts \
  # Query compilers of databases that are not Postgres, and maps for debuggers, are a third of the packages' size.
  && find node_modules/@prisma/client/runtime -name 'query_compiler_*' ! -name '*postgresql*' -delete \
  && find node_modules -name '*.map' -delete

FROM node:24.21.0-alpine
ENV NODE_ENV=production
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY --from=build /app/src src
COPY --from=build /app/prisma prisma
COPY package.json ./
# By number, so that an orchestrator can see that it is not root. Nothing here belongs to it: it writes no files.
USER 1000:1000
EXPOSE 4000 9464
# As `npm run serve:api` has them; docs/operation.md says why.
ENTRYPOINT ["node", "--no-memory-reducer", "--initial-old-space-size=256", "--max-semi-space-size=16"]
CMD ["src/server.ts"]
