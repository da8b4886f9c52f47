import type { RequestListener } from 'node:http';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import {
  createOutgoing,
  type Outgoing,
  type OutgoingOptions,
  type OutgoingRequest,
} from '../../src/adapters/outgoing.ts';
import { isPublicAddress } from '../../src/adapters/outgoing-address.ts';
import { type LocalServer, startLocalServer } from './local-server.ts';

const open: { stop(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.stop()));
});

function guard(options: Partial<OutgoingOptions> = {}): Outgoing {
  const outgoing = createOutgoing({ allowedOrigins: [], ...options });
  open.push({ stop: () => outgoing.close() });
  return outgoing;
}

async function serve(handle: RequestListener): Promise<LocalServer> {
  const server = await startLocalServer(handle);
  open.push(server);
  return server;
}

function get(url: string, rest: Partial<OutgoingRequest> = {}): OutgoingRequest {
  const signal = new AbortController().signal;
  return { url, method: 'GET', accepts: ['text/*', 'application/json'], timeout: 5_000, signal, ...rest };
}

const refusal = (message: RegExp | string) =>
  expect.objectContaining({ code: 'OUTGOING_REFUSED', message: expect.stringMatching(message) });
const notPublic = refusal('^The host has no public address\\.$');

describe('an address', () => {
  it.each([
    ...['8.8.8.8', '1.1.1.1', '93.184.216.34', '172.32.0.1', '100.128.0.1', '169.253.255.255'],
    ...['2606:4700:4700::1111', '2a00:1450:4001:830::200e'],
  ])('%s is public', (address) => {
    expect(isPublicAddress(address)).toBe(true);
  });

  it.each([
    ...['0.0.0.0', '10.0.0.1', '100.64.0.1', '100.100.100.200', '127.0.0.1', '127.255.255.254', '169.254.169.254'],
    ...['172.16.0.1', '172.31.255.255', '192.0.0.192', '192.0.2.1', '192.88.99.1', '192.168.1.1', '198.18.0.1'],
    ...['198.51.100.1', '203.0.113.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', '168.63.129.16'],
    ...['::', '::1', '::127.0.0.1', '::ffff:127.0.0.1', '::ffff:8.8.8.8', '64:ff9b::7f00:1', '64:ff9b:1::7f00:1'],
    ...['100::1', '2001::1', '2001:db8::1', '2002:7f00:1::', 'fc00::1', 'fd00:ec2::254'],
    ...['fe80::1', 'fe80::1%eth0', 'fec0::1', 'ff02::1', '5f00::1', 'not an address', ''],
  ])('%s is not', (address) => {
    expect(isPublicAddress(address)).toBe(false);
  });
});

describe('a URL', () => {
  it.each([
    ...['https://127.0.0.1/', 'https://127.1/', 'https://2130706433/', 'https://0x7f000001/', 'https://0x7f.0.0.1/'],
    ...['https://0177.0.0.1/', 'https://017700000001/', 'https://0/', 'https://127.0.0.1./', 'https://１２７.0.0.1/'],
    ...['https://169.254.169.254/latest/meta-data/', 'https://0xa9fea9fe/', 'https://10.1.2.3:8443/', 'https://[::1]/'],
    ...[
      'https://[::ffff:127.0.0.1]/',
      'https://[::ffff:7f00:1]/',
      'https://[0:0:0:0:0:ffff:a9fe:a9fe]/',
      'https://[::]/',
    ],
    ...['https://[64:ff9b::7f00:1]/', 'https://[2002:7f00:1::]/', 'https://[fe80::1]/', 'https://[fd00::1]/'],
  ])('%s leads to no public address, and is refused before anything is sent', async (url) => {
    await expect(guard().request(get(url))).rejects.toEqual(notPublic);
    expect(() => guard().checkUrl(url)).toThrow(notPublic);
  });

  it.each([
    ['http://example.com/', /Only https/],
    ['ftp://example.com/', /Only https/],
    ['file:///etc/passwd', /Only https/],
    ['gopher://127.0.0.1:6379/_FLUSHALL', /Only https/],
    ['data:text/plain,hello', /Only https/],
    ['javascript:alert(1)', /Only https/],
    ['https://user:password@example.com/', /user name/],
    ['https://example.com@127.0.0.1/', /user name/],
    ['https://example.com:22/', /port/],
    ['https://example.com:80/', /port/],
    ['https://', /not valid/],
    ['nonsense', /not valid/],
    [`https://example.com/${'a'.repeat(9_000)}`, /not valid/],
  ])('%.60s is refused', async (url, message) => {
    await expect(guard().request(get(url))).rejects.toEqual(refusal(message));
  });

  it.each(['https://example.com/a?b=c', 'https://example.com:8443/', 'https://8.8.8.8/', 'https://[2606:4700::1]/'])(
    '%s may be tried',
    (url) => {
      expect(guard().checkUrl(url).href).toBe(url);
    },
  );
});

describe('a host name', () => {
  it.each<[string, string[]]>([
    ['an inner address', ['127.0.0.1']],
    ['a mapped address', ['::ffff:127.0.0.1']],
    ['a public address and an inner one', ['93.184.216.34', '10.0.0.1']],
    ['nothing', []],
  ])('that resolves to %s is refused, and nothing connects', async (_what, addresses) => {
    const server = await serve((_request, response) => response.end('inner'));
    const resolve = async () => addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
    const { port } = new URL(server.origin);
    await expect(guard({ resolve }).request(get(`https://rebind.example:${port}/`))).rejects.toEqual(notPublic);
    expect(server.connections()).toBe(0);
  });

  it('is looked up anew for each connection, so that no earlier answer lets a later one in', async () => {
    const server = await serve((_request, response) => response.end('inner'));
    let asked = 0;
    const resolve = async () => {
      asked += 1;
      return [{ address: '127.0.0.1', family: 4 }];
    };
    const outgoing = guard({ resolve });
    for (const expected of [1, 2]) {
      await expect(outgoing.request(get(`https://rebind.example:${new URL(server.origin).port}/`))).rejects.toEqual(
        notPublic,
      );
      expect(asked).toBe(expected);
    }
    expect(server.connections()).toBe(0);
  });

  it('of this machine is refused by what the system resolves it to', async () => {
    await expect(guard().request(get('https://localhost:8443/'))).rejects.toEqual(notPublic);
  });

  it('that does not exist is told as one that is inner', async () => {
    const resolve = () => Promise.reject(Object.assign(new Error('getaddrinfo'), { code: 'ENOTFOUND' }));
    await expect(guard({ resolve }).request(get('https://nowhere.example/'))).rejects.toEqual(notPublic);
  });
});

describe('the allow list', () => {
  it('opens exactly the origins that it names', async () => {
    const server = await serve((_request, response) => response.setHeader('content-type', 'text/plain').end('hello'));
    const outgoing = guard({ allowedOrigins: [server.origin] });
    expect(await outgoing.request(get(`${server.origin}/a`))).toEqual({
      url: `${server.origin}/a`,
      status: 200,
      mediaType: 'text/plain',
      text: 'hello',
    });
    await expect(outgoing.request(get(server.origin.replace('http', 'https')))).rejects.toEqual(notPublic);
    await expect(outgoing.request(get('http://127.0.0.1:1/'))).rejects.toEqual(refusal(/Only https/));
  });
});

describe('a redirect', () => {
  it.each([
    ['to the metadata of a cloud', 'http://169.254.169.254/latest/', refusal(/Only https/)],
    ['to it by https', 'https://169.254.169.254/latest/', notPublic],
    ['to this machine', 'https://[::1]:8443/', notPublic],
    ['to a name of this machine', 'https://localhost:8443/', notPublic],
    ['to a file', 'file:///etc/passwd', refusal(/Only https/)],
    ['to another user', 'https://user@example.com/', refusal(/user name/)],
  ])('%s is refused', async (_what, location, error) => {
    const server = await serve((_request, response) => response.writeHead(302, { location }).end());
    await expect(guard({ allowedOrigins: [server.origin] }).request(get(server.origin))).rejects.toEqual(error);
  });

  it('is followed three times and not a fourth time', async () => {
    const server = await serve((request, response) => {
      const left = Number(request.url?.slice(1));
      response.setHeader('content-type', 'text/plain');
      response.writeHead(left > 0 ? 302 : 200, left > 0 ? { location: `/${left - 1}` } : {}).end('there');
    });
    const outgoing = guard({ allowedOrigins: [server.origin] });
    expect(await outgoing.request(get(`${server.origin}/3`))).toMatchObject({ status: 200, text: 'there' });
    await expect(outgoing.request(get(`${server.origin}/4`))).rejects.toEqual(refusal(/more than 3 times/));
  });

  it('to another origin carries no header of the caller, also when it leads back', async () => {
    let first = '';
    const second = await serve((_request, response) => response.writeHead(302, { location: `${first}/back` }).end());
    const server = await serve((request, response) => {
      response.setHeader('content-type', 'text/plain');
      response.writeHead(request.url === '/' ? 302 : 200, { location: second.origin }).end('done');
    });
    first = server.origin;
    const outgoing = guard({ allowedOrigins: [server.origin, second.origin] });
    const headers = { authorization: 'Bearer secret', 'x-api-key': 'secret' };
    await outgoing.request(get(`${server.origin}/`, { headers }));
    expect(server.received[0]?.headers).toMatchObject(headers);
    expect([second.received[0]?.path, server.received[1]?.path]).toEqual(['/', '/back']);
    expect(JSON.stringify([second.received, server.received[1]])).not.toContain('secret');
  });

  it.each([
    [303, 'PUT', 'GET', ''],
    [302, 'POST', 'GET', ''],
    [307, 'POST', 'POST', 'content'],
  ])('%i of a %s goes on as %s', async (status, method, next, body) => {
    const server = await serve((request, response) => {
      response.setHeader('content-type', 'text/plain');
      response.writeHead(request.url === '/' ? status : 200, { location: '/next' }).end('ok');
    });
    const headers = { 'content-type': 'text/plain' };
    await guard({ allowedOrigins: [server.origin] }).request(
      get(`${server.origin}/`, { method, headers, body: 'content' }),
    );
    expect(server.received[1]).toMatchObject({ method: next, path: '/next', body });
  });

  it('never takes content to another origin', async () => {
    const other = await serve((_request, response) => response.end());
    const server = await serve((_request, response) => response.writeHead(307, { location: other.origin }).end());
    const outgoing = guard({ allowedOrigins: [server.origin, other.origin] });
    await expect(outgoing.request(get(server.origin, { method: 'POST', body: 'secret' }))).rejects.toEqual(
      refusal(/content/),
    );
    expect(other.received).toEqual([]);
  });
});

describe('an answer', () => {
  it.each<[string, RequestListener]>([
    ['that says so', (_request, response) => response.writeHead(200, { 'content-length': 2_000_000 }).flushHeaders()],
    [
      'that does not say so',
      (_request, response) => {
        response.setHeader('content-type', 'text/plain');
        response.end('x'.repeat(1_100_000));
      },
    ],
    [
      'that never ends',
      (_request, response) => {
        response.setHeader('content-type', 'text/plain');
        const more = (): void => {
          if (!response.destroyed) {
            response.write('x'.repeat(65_536), more);
          }
        };
        more();
      },
    ],
    [
      'when it is unpacked',
      (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/plain', 'content-encoding': 'gzip' });
        response.end(gzipSync(Buffer.alloc(50_000_000)));
      },
    ],
  ])('of more than 1 MB %s is refused', async (_what, handle) => {
    const server = await serve(handle);
    await expect(guard({ allowedOrigins: [server.origin] }).request(get(server.origin))).rejects.toEqual(
      refusal(/1048576 bytes/),
    );
  });

  it('of exactly 1 MB is taken', async () => {
    const server = await serve((_request, response) => {
      response.setHeader('content-type', 'text/plain').end('x'.repeat(1_048_576));
    });
    const answer = await guard({ allowedOrigins: [server.origin] }).request(get(server.origin));
    expect(answer.text).toHaveLength(1_048_576);
  });

  it.each<[string, RequestListener]>([
    ['does not come', () => undefined],
    ['has a head and nothing else', (_request, response) => response.writeHead(200).flushHeaders()],
    [
      'comes byte by byte',
      (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/plain' });
        const timer = setInterval(() => response.write('x'), 20);
        response.on('close', () => clearInterval(timer));
      },
    ],
    [
      'is redirected for ever',
      (_request, response) => setTimeout(() => response.writeHead(302, { location: '/' }).end(), 150),
    ],
  ])('that %s ends at the time limit', async (_what, handle) => {
    const server = await serve(handle);
    const outgoing = guard({ allowedOrigins: [server.origin] });
    const started = performance.now();
    await expect(outgoing.request(get(server.origin, { timeout: 400 }))).rejects.toMatchObject({
      code: 'OUTGOING_FAILED',
      message: 'The other side did not answer in time.',
    });
    expect(performance.now() - started).toBeLessThan(3_000);
  });

  it('is given up when the caller stops, for the reason of the caller', async () => {
    const server = await serve(() => undefined);
    const stop = new AbortController();
    const request = guard({ allowedOrigins: [server.origin] }).request(get(server.origin, { signal: stop.signal }));
    const reason = new Error('cancelled');
    stop.abort(reason);
    await expect(request).rejects.toBe(reason);
  });

  it('of another type is refused', async () => {
    const server = await serve((_request, response) =>
      response.writeHead(200, { 'content-type': 'image/png' }).end('x'),
    );
    await expect(guard({ allowedOrigins: [server.origin] }).request(get(server.origin))).rejects.toEqual(
      refusal(/type image\/png/),
    );
  });

  it('is read by its charset', async () => {
    const server = await serve((_request, response) => {
      response.writeHead(200, { 'content-type': 'Text/HTML; charset="iso-8859-1"' }).end(Buffer.from([0xe9]));
    });
    const answer = await guard({ allowedOrigins: [server.origin] }).request(get(server.origin));
    expect(answer).toMatchObject({ mediaType: 'text/html', text: 'é' });
  });

  it('that can not be had names no inner address', async () => {
    const error: unknown = await guard({ allowedOrigins: ['http://127.0.0.1:1'] })
      .request(get('http://127.0.0.1:1/'))
      .catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'OUTGOING_FAILED', message: 'The other side could not be reached.' });
  });
});

describe('fetch under the guard', () => {
  it('hands on status, headers and content', async () => {
    const server = await serve((_request, response) => response.writeHead(404, { 'x-a': 'b' }).end('none'));
    const answer = await guard({ allowedOrigins: [server.origin] }).fetch(server.origin, { method: 'POST', body: 'x' });
    expect([answer.status, answer.headers.get('x-a'), await answer.text()]).toEqual([404, 'b', 'none']);
    expect(server.received[0]).toMatchObject({ method: 'POST', body: 'x' });
  });

  it('refuses inner addresses, redirects and what is too large', async () => {
    const server = await serve((request, response) => {
      if (request.url === '/large') {
        response.end('x'.repeat(1_100_000));
      } else {
        response.writeHead(302, { location: '/' }).end();
      }
    });
    const outgoing = guard({ allowedOrigins: [server.origin] });
    await expect(outgoing.fetch(server.origin)).rejects.toEqual(refusal(/redirect/));
    await expect((await outgoing.fetch(`${server.origin}/large`)).text()).rejects.toEqual(refusal(/1048576/));
    await expect(outgoing.fetch('https://127.0.0.1/').then(() => null)).rejects.toEqual(notPublic);
  });
});
