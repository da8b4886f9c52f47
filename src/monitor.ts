import { createServer, type Server, type ServerResponse } from 'node:http';
import type { Metrics } from './adapters/metrics.ts';
import type { CheckHealth } from './health.ts';

export interface MonitorOptions {
  metrics: Metrics;
  health: CheckHealth;
}

/** What operators and their machines ask of a process, on a port of its own: metrics, liveness, readiness. */
export function createMonitorServer(options: MonitorOptions): Server {
  const settings = { requestTimeout: 10_000, headersTimeout: 5_000, maxHeaderSize: 8_192 };
  return createServer(settings, (request, response) => {
    answer(options, request.url ?? '', response).catch(() => {
      response.writeHead(500);
      response.end();
    });
  });
}

async function answer(options: MonitorOptions, path: string, response: ServerResponse): Promise<void> {
  if (path === '/metrics') {
    // Dependencies are asked first, so that a scrape shows how they are now.
    await options.health();
    const { contentType, text } = await options.metrics.render();
    response.writeHead(200, { 'content-type': contentType });
    response.end(text);
  } else if (path === '/health/live') {
    // Whether the process answers, and not whether it can work: a restart helps nobody whose database is away.
    sendJson(response, 200, { status: 'live' });
  } else if (path === '/health/ready') {
    const report = await options.health();
    const ready = report.status === 'ready' || report.status === 'degraded';
    sendJson(response, ready ? 200 : 503, report);
  } else {
    sendJson(response, 404, { paths: ['/metrics', '/health/live', '/health/ready'] });
  }
}

function sendJson(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}
