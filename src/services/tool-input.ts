import { z } from 'zod';
import { badInput, DomainError } from '../errors.ts';
import type { ApprovalPolicy } from '../generated/prisma/enums.ts';
import { findHttpFault, type HttpToolSettings } from './http-tool.ts';
import { required, text } from './input.ts';
import type { ToolResources } from './tool-resources.ts';
import type { JsonObject } from './tool-schema.ts';
import { type SecretInput, secretRules } from './tool-secrets.ts';

export interface HttpToolInput {
  method?: HttpToolSettings['method'] | null | undefined;
  url: string;
  headers?: readonly { name: string; value: string }[] | null | undefined;
  body?: unknown;
  resultPointer?: string | null | undefined;
  idempotencyHeader?: string | null | undefined;
}

export interface ToolInput {
  name?: string | null | undefined;
  description?: string | null | undefined;
  arguments?: unknown;
  dangerous?: boolean | null | undefined;
  approvalPolicy?: ApprovalPolicy | null | undefined;
  approvalTimeoutSeconds?: number | null | undefined;
  timeoutSeconds?: number | null | undefined;
  builtIn?: string | null | undefined;
  http?: HttpToolInput | null | undefined;
  secrets?: readonly SecretInput[] | null | undefined;
}

/** Longest wait for an answer from outside, in seconds. */
export const longestHttpSeconds = 30;

const toolName = text('name')
  .regex(
    /^[A-Za-z][A-Za-z0-9_-]{0,63}$/,
    '`name` must be 1 to 64 letters, digits, _ and -, and begin with a letter: models call the tool by it.',
  )
  .refine(
    (name) => !name.includes('__'),
    '`name` may not hold `__`, which sets apart the names of tools of MCP servers.',
  );

const httpRules = z.object(
  {
    method: z.enum(['GET', 'POST', 'PUT', 'PATCH', 'DELETE'], required('method')).nullish(),
    url: text('url').min(1, '`url` may not be empty.').max(4_000, '`url` may have at most 4,000 characters.'),
    headers: z
      .array(
        z.object({
          name: z.string(),
          value: z.string().max(4_000, '`value` may have at most 4,000 characters.'),
        }),
      )
      .nullish(),
    body: z.json('`body` must be a JSON object or list.').nullish(),
    resultPointer: text('resultPointer').max(500, '`resultPointer` may have at most 500 characters.').nullish(),
    idempotencyHeader: text('idempotencyHeader').nullish(),
  },
  required('http'),
);

export const toolRules = z.object({
  name: toolName.optional(),
  description: text('description')
    .min(1, '`description` may not be empty: models choose the tool by it.')
    .max(1_000, '`description` may have at most 1,000 characters.')
    .optional(),
  arguments: z.unknown().optional(),
  dangerous: z.boolean(required('dangerous')).optional(),
  approvalPolicy: z.enum(['ALWAYS', 'DANGEROUS', 'NEVER']).nullish(),
  approvalTimeoutSeconds: z
    .int()
    .min(10, '`approvalTimeoutSeconds` must be from 10 to 2,592,000.')
    .max(2_592_000, '`approvalTimeoutSeconds` must be from 10 to 2,592,000.')
    .nullish(),
  timeoutSeconds: z
    .int(required('timeoutSeconds'))
    .min(1, '`timeoutSeconds` must be from 1 to 600.')
    .max(600, '`timeoutSeconds` must be from 1 to 600.')
    .optional(),
  builtIn: z.string(required('builtIn')).optional(),
  http: httpRules.optional(),
  secrets: secretRules(
    /^[A-Za-z][A-Za-z0-9_]{0,63}$/,
    'The name of a secret must be 1 to 64 letters, digits and _, and begin with a letter.',
  ),
});

export type ToolValues = z.output<typeof toolRules>;

/** The settings of an HTTP tool with their defaults. */
export function toHttpSettings(input: z.output<typeof httpRules>): HttpToolSettings {
  const { method, url, headers, body, resultPointer, idempotencyHeader } = input;
  return {
    method: method ?? 'GET',
    url,
    headers: headers ?? [],
    body: (body ?? null) as HttpToolSettings['body'],
    resultPointer: resultPointer ?? '',
    idempotencyHeader: idempotencyHeader === undefined ? 'Idempotency-Key' : idempotencyHeader,
  };
}

/** @throws DomainError BAD_USER_INPUT with the place in the schema */
export function checkSchema(resources: ToolResources, schema: unknown): JsonObject {
  const fault = resources.arguments.findSchemaFault(schema, true);
  if (fault !== null) {
    throw badInput('input.arguments', `\`arguments\`${fault.path === '' ? '' : ` at ${fault.path}`}: ${fault.message}`);
  }
  return JSON.parse(JSON.stringify(schema)) as JsonObject;
}

/** @throws DomainError BAD_USER_INPUT with the member of the settings */
export function checkHttpSettings(
  resources: ToolResources,
  settings: HttpToolSettings,
  schema: JsonObject,
  secretNames: readonly string[],
  timeoutSeconds: number,
): void {
  const properties = schema['properties'];
  const names = new Set(typeof properties === 'object' && properties !== null ? Object.keys(properties) : []);
  const fault = findHttpFault(settings, names, new Set(secretNames));
  if (fault !== null) {
    throw badInput(`input.http.${fault.field}`, fault.message);
  }
  if (timeoutSeconds > longestHttpSeconds) {
    throw badInput(
      'input.timeoutSeconds',
      `A tool that leaves the service gets at most ${longestHttpSeconds} seconds.`,
    );
  }
  checkAddress(resources, settings.url, 'input.http.url');
}

/** The origin of a template is literal, so that it can be judged without values. @throws DomainError BAD_USER_INPUT */
export function checkAddress(resources: ToolResources, url: string, field: string): void {
  try {
    resources.outgoing.checkUrl(URL.parse(url)?.origin ?? url);
  } catch (error) {
    throw error instanceof DomainError ? badInput(field, error.message) : error;
  }
}
