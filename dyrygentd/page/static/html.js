// What every module of the page draws with: `html` makes Preact's nodes of a template, and escapes whatever stands in it.
import { h, render, Fragment, Component, createContext } from "./vendor/preact.js";
import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState, useCallback } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export {
  h, render, Fragment, Component, createContext,
  useContext, useEffect, useLayoutEffect, useMemo, useRef, useState, useCallback,
};
