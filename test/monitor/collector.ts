import { createServer } from 'node:http';
import { listen } from '../../dev/listen.ts';

/** A span as a collector gets it by OTLP over HTTP, its attributes by name. */
export interface CollectedSpan {
  service: string;
  name: string;
  traceId: string;
  spanId: string;
  parentSpanId: string;
  attributes: Record<string, unknown>;
}

interface Payload {
  resourceSpans: {
    resource: { attributes: Attribute[] };
    scopeSpans: { spans: (Omit<CollectedSpan, 'service' | 'attributes'> & { attributes: Attribute[] })[] }[];
  }[];
}
type Attribute = { key: string; value: Record<string, unknown> };

/** A real receiver of OTLP over HTTP as JSON: what it accepts is what a collector would get. */
export async function startCollector(): Promise<{ url: string; spans: CollectedSpan[]; stop(): Promise<void> }> {
  const spans: CollectedSpan[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      if (request.method !== 'POST' || request.headers['content-type'] !== 'application/json') {
        response.writeHead(415).end();
        return;
      }
      spans.push(...readSpans(JSON.parse(Buffer.concat(chunks).toString('utf8')) as Payload));
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  });
  const { origin } = await listen(server);
  return {
    url: `${origin}/v1/traces`,
    spans,
    stop: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

function readSpans({ resourceSpans }: Payload): CollectedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const service = String(byName(resource.attributes)['service.name']);
    return scopeSpans.flatMap((scope) =>
      scope.spans.map((span) => ({ ...span, service, attributes: byName(span.attributes) })),
    );
  });
}

function byName(attributes: Attribute[]): Record<string, unknown> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));
}
