"use strict";
// The page is complete without its script, which adds tooltips, filters and the choice of colours.
const root = document.documentElement;
root.classList.add("js");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);
