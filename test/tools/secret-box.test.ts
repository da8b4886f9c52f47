import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createSecretBox, redactSecrets, type SecretOwner } from '../../src/services/secret-box.ts';

const key = (id: string) => ({ id, key: randomBytes(32) });
const [older, newer] = [key('2025'), key('2026')];
const owner: SecretOwner = { userId: 'alice', table: 'tools', rowId: 'row' };
const secrets = { TOKEN: 'correct horse battery staple' };
const unavailable = expect.objectContaining({ code: 'SECRETS_UNAVAILABLE' });

describe('a secret box', () => {
  it('opens what it sealed, and shows nothing of it', () => {
    const box = createSecretBox([newer]);
    const sealed = box.seal(owner, secrets);
    expect(sealed.keyId).toBe('2026');
    expect(Buffer.from(sealed.bytes).toString('latin1')).not.toMatch(/horse|TOKEN/);
    expect(box.open(owner, sealed)).toEqual(secrets);
  });

  it('seals the same secrets differently each time', () => {
    const box = createSecretBox([newer]);
    expect(box.seal(owner, secrets).bytes).not.toEqual(box.seal(owner, secrets).bytes);
  });

  it.each<[string, SecretOwner]>([
    ['user', { ...owner, userId: 'bob' }],
    ['row', { ...owner, rowId: 'other' }],
    ['table', { ...owner, table: 'mcp_servers' }],
  ])('does not open what was moved to another %s', (_what, other) => {
    const box = createSecretBox([newer]);
    expect(() => box.open(other, box.seal(owner, secrets))).toThrow(unavailable);
  });

  it('does not open what was changed in any byte', () => {
    const box = createSecretBox([newer]);
    const { bytes, keyId } = box.seal(owner, secrets);
    for (const place of bytes.keys()) {
      const changed = Uint8Array.from(bytes, (byte, index) => (index === place ? byte ^ 1 : byte));
      expect(() => box.open(owner, { bytes: changed, keyId })).toThrow(unavailable);
    }
    expect(() => box.open(owner, { bytes: bytes.slice(0, 20), keyId })).toThrow(unavailable);
    expect(() => box.open(owner, { bytes: new Uint8Array(), keyId })).toThrow(unavailable);
  });

  it('seals with the first key of its ring and opens with each', () => {
    const before = createSecretBox([older]).seal(owner, secrets);
    const during = createSecretBox([newer, older]);
    expect(during.open(owner, before)).toEqual(secrets);
    const after = during.seal(owner, secrets);
    expect(after.keyId).toBe('2026');
    expect(createSecretBox([newer]).open(owner, after)).toEqual(secrets);
    expect(() => createSecretBox([newer]).open(owner, before)).toThrow(unavailable);
  });

  it('does not open with another key of the same name', () => {
    const sealed = createSecretBox([newer]).seal(owner, secrets);
    expect(() => createSecretBox([{ ...key('2026') }]).open(owner, sealed)).toThrow(unavailable);
  });

  it('without a key keeps nothing', () => {
    expect(createSecretBox([]).currentKeyId).toBeNull();
    expect(() => createSecretBox([]).seal(owner, secrets)).toThrow(unavailable);
  });
});

describe('a secret in a text', () => {
  const value = 'pa/ss+wörd "1&2"';
  it.each<[string, string]>([
    ['as it is', value],
    ['in a path', encodeURIComponent(value)],
    ['in a query', new URLSearchParams({ q: value }).toString()],
    ['in JSON', JSON.stringify({ key: value })],
    ['in HTML', '<b>pa/ss+wörd &quot;1&amp;2&quot;</b>'],
    ['in Base64', Buffer.from(value).toString('base64')],
    ['as a password of Basic authentication', Buffer.from(`user:${value}`).toString('base64')],
    ['in the middle of Base64', Buffer.from(`ab${value}cd`).toString('base64url')],
  ])('is taken out %s', (_what, written) => {
    const told = redactSecrets(`before ${written} after`, { KEY: value, OTHER: 'pa/ss' });
    expect(told).toMatch(/^before .*\[secret\].* after$/);
    expect(Buffer.from(told, 'base64').toString()).not.toContain('wörd');
    expect(told).not.toMatch(/wörd|w%C3/);
  });

  it('leaves everything else', () => {
    expect(redactSecrets('nothing here', { KEY: value })).toBe('nothing here');
    expect(redactSecrets('nothing here', {})).toBe('nothing here');
  });
});
