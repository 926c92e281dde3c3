/**
 * One tree of everything that has to end: listeners, observers, timers, children. What is added
 * after the end ends at once, so that nothing outlives its owner.
 */
export class Scope {
  #endings = [];
  #ended = false;

  add(ending) {
    if (this.#ended) ending();
    else this.#endings.push(ending);
    return ending;
  }

  listen(target, type, listener, options) {
    target.addEventListener(type, listener, options);
    this.add(() => target.removeEventListener(type, listener, options));
  }

  every(milliseconds, action) {
    const timer = setInterval(action, milliseconds);
    this.add(() => clearInterval(timer));
  }

  resized(element, action) {
    const observer = new ResizeObserver(action);
    observer.observe(element);
    this.add(() => observer.disconnect());
  }

  child() {
    const scope = new Scope();
    const ending = () => scope.end();
    scope.add(() => {
      this.#endings = this.#endings.filter((other) => other !== ending);
    });
    return this.add(ending) && scope;
  }

  end() {
    if (this.#ended) return;
    this.#ended = true;
    for (const ending of this.#endings.splice(0).reverse()) ending();
  }
}
