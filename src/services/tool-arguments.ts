import { createHash } from 'node:crypto';
import { createContext, Script } from 'node:vm';
import { Ajv, type ErrorObject, type Options, type ValidateFunction } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { LRUCache } from 'lru-cache';
import { findSchemaFault, type JsonObject, type SchemaFault } from './tool-schema.ts';

/** Checks what a model gives a tool against the tool's JSON Schema. */
export interface ToolArguments {
  /**
   * Takes a schema for later use, or says what is wrong with it.
   * @param strict refuses also keywords that JSON Schema does not know
   * @returns null when it is good
   */
  findSchemaFault(schema: unknown, strict: boolean): SchemaFault | null;
  /** What is wrong with arguments, in words that a model can act on; null when they pass. */
  findFault(schema: JsonObject, given: unknown): string | null;
}

/** Compiled schemas that are kept. */
const mostCompiled = 500;
/** Longest compilation and longest check, in milliseconds: far more than any honest schema takes. */
const compileTime = 1_000;
const checkTime = 200;
/** How often work is begun anew that was held up from outside. */
const mostPauses = 10;
const longestArguments = 200_000;

const draft7 = /^https?:\/\/json-schema\.org\/draft-07\/schema#?$/;
const settings: Options = {
  strictTypes: false,
  strictTuples: false,
  strictRequired: false,
  allowUnionTypes: true,
  // The first fault is enough: to look for all of them is work that a hostile value can blow up.
  allErrors: false,
  logger: false,
};

/**
 * Schemas are compiled once and kept by their content. Work on them runs under a time limit of the JavaScript engine, which
 * ends loops and regular expressions wherever they are.
 */
export function createToolArguments(): ToolArguments {
  const compilers = new Map<string, Ajv>();
  const compiled = new LRUCache<string, ValidateFunction>({ max: mostCompiled });
  const runWithin = createTimeLimit();

  const compile = (schema: JsonObject, strict: boolean): ValidateFunction => {
    const text = JSON.stringify(schema);
    const key = createHash('sha256').update(`${strict} ${text}`).digest('base64');
    const known = compiled.get(key);
    if (known !== undefined) {
      return known;
    }
    const dialect = `${strict} ${draft7.test(String(schema['$schema'] ?? ''))}`;
    const compiler = compilers.get(dialect) ?? createCompiler(schema, strict);
    compilers.set(dialect, compiler);
    const own = JSON.parse(text) as JsonObject;
    try {
      const validate = runWithin(compileTime, () => compiler.compile(own));
      compiled.set(key, validate);
      return validate;
    } catch (error) {
      // One that was ended in the middle of its work is good for nothing any more.
      compilers.delete(dialect);
      throw error;
    } finally {
      // The compiler would keep every schema that it ever saw.
      compiler.removeSchema(own);
    }
  };

  return {
    findSchemaFault: (schema, strict) => {
      const fault = findSchemaFault(schema);
      if (fault !== null) {
        return fault;
      }
      try {
        compile(schema as JsonObject, strict);
        return null;
      } catch (error) {
        return toSchemaFault(error);
      }
    },
    findFault: (schema, given) => {
      if ((JSON.stringify(given) ?? '').length > longestArguments) {
        return `The arguments have more than ${longestArguments} characters.`;
      }
      try {
        const validate = compile(schema, false);
        return runWithin(checkTime, () => validate(given)) ? null : describe(validate.errors?.[0]);
      } catch (error) {
        if (error instanceof TimeLimitError || error instanceof RangeError) {
          return 'The arguments take too long to check.';
        }
        return `The schema of the tool can't be used: ${toSchemaFault(error).message}.`;
      }
    },
  };
}

function createCompiler(schema: JsonObject, strict: boolean): Ajv {
  const options = { ...settings, strict };
  const compiler = draft7.test(String(schema['$schema'] ?? '')) ? new Ajv(options) : new Ajv2020(options);
  // Formats of the fast kind have no pattern that backtracks for long (https://ajv.js.org/packages/ajv-formats.html).
  addFormats.default(compiler, { mode: 'fast' });
  return compiler;
}

class TimeLimitError extends Error {}

/** Runs work that can't wait for anything, and ends it when its time is over, wherever it is. */
function createTimeLimit(): <Result>(milliseconds: number, work: () => Result) => Result {
  const script = new Script('work()');
  const room = { work: (): void => undefined };
  const context = createContext(room);
  return <Result>(milliseconds: number, work: () => Result): Result => {
    let outcome: { result: Result } | { fault: unknown } | null = null as
      | { result: Result }
      | { fault: unknown }
      | null;
    room.work = () => {
      try {
        outcome = { result: work() };
      } catch (fault) {
        outcome = { fault };
      }
    };
    let spent = 0;
    for (let patience = mostPauses; ; patience -= 1) {
      const before = process.threadCpuUsage();
      try {
        script.runInContext(context, { timeout: milliseconds });
        break;
      } catch (error) {
        // The engine's clock also runs while a busy machine lets this thread wait: that is no fault of the work.
        const { user, system } = process.threadCpuUsage(before);
        spent += (user + system) / 1_000;
        if (spent > milliseconds / 2 || patience === 0) {
          throw new TimeLimitError('it takes too long', { cause: error });
        }
      }
    }
    if (outcome === null || 'fault' in outcome) {
      throw outcome?.fault;
    }
    return outcome.result;
  };
}

function toSchemaFault(error: unknown): SchemaFault {
  if (error instanceof TimeLimitError) {
    return { path: '', message: 'takes too long to compile' };
  }
  const message = error instanceof Error ? error.message : 'can not be compiled';
  const path = /^schema is invalid: data(\/\S*)/.exec(message)?.[1] ?? /at "#?(\/[^"]*)"/.exec(message)?.[1] ?? '';
  return { path, message: message.replace(/^schema is invalid: data(\/\S*)? /, '').slice(0, 300) };
}

function describe(error: ErrorObject | undefined): string {
  if (error === undefined) {
    return 'The arguments do not fit the schema.';
  }
  const place = error.instancePath === '' ? 'The arguments' : `\`${error.instancePath}\``;
  const { additionalProperty, unevaluatedProperty, allowedValues } = error.params as Record<string, unknown>;
  const detail = additionalProperty ?? unevaluatedProperty ?? allowedValues;
  return `${place} ${error.message ?? 'does not fit'}${detail === undefined ? '' : `: ${JSON.stringify(detail)}`}.`.slice(
    0,
    1_000,
  );
}
