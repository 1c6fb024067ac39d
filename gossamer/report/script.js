// The theme is set at once, so that the page does not flash; the rest waits for the page. Everything here is a
// convenience: without it the page shows the same, in the order of the sampling, in the theme of the system.
(function () {
  "use strict";
  var root = document.documentElement;

  function stored(value) {
    try {
      if (value) localStorage.setItem("gossamer-theme", value);
      return localStorage.getItem("gossamer-theme");
    } catch (error) {
      return null; // a file opened from disk may have no storage
    }
  }

  function dark() {
    return (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  }

  if (/^(light|dark)$/.test(stored() || "")) root.dataset.theme = stored();
  document.addEventListener("DOMContentLoaded", function () {
    theme();
    sections();
    tooltip();
    sounds();
    if (document.getElementById("cards")) cards();
  });

  function theme() {
    var button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", function () {
      root.dataset.theme = dark() ? "light" : "dark";
      stored(root.dataset.theme);
    });
  }

  // Marks the section being read in the navigation.
  function sections() {
    var links = Array.from(document.querySelectorAll("nav a"));
    var watcher = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        links.forEach(function (link) {
          if (link.hash !== "#" + entry.target.id) return link.removeAttribute("aria-current");
          link.setAttribute("aria-current", "true");
          link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 48;
        });
      });
    }, { rootMargin: "-20% 0px -75% 0px" });
    document.querySelectorAll("main > section").forEach(function (section) { watcher.observe(section); });
  }

  // Shows the activation of a token: pointer, tap, or the arrow keys within a context.
  function tooltip() {
    var tip = document.getElementById("tip");
    var at = null;

    function show(mark) {
      hide();
      at = mark;
      if (mark.title) {
        mark.dataset.value = mark.title; // else the browser shows its own tooltip as well
        mark.removeAttribute("title");
      }
      mark.classList.add("at");
      tip.textContent = mark.textContent + "  " + mark.dataset.value;
      tip.hidden = false;
      var box = mark.getClientRects()[0];
      var left = box.left + box.width / 2 - tip.offsetWidth / 2;
      var above = box.top - tip.offsetHeight - 6;
      tip.style.left = Math.max(8, Math.min(left, root.clientWidth - tip.offsetWidth - 8)) + "px";
      tip.style.top = (above > 60 ? above : box.bottom + 6) + "px";
    }

    function hide() {
      if (at) at.classList.remove("at");
      at = null;
      tip.hidden = true;
    }

    function mark(event) {
      return event.target.closest ? event.target.closest(".contexts mark") : null;
    }

    document.addEventListener("pointerover", function (event) {
      if (mark(event)) show(mark(event));
      else if (event.pointerType === "mouse") hide();
    });
    document.addEventListener("click", function (event) {
      if (mark(event)) show(mark(event));
      else hide();
    });
    document.addEventListener("scroll", hide, { passive: true });
    document.addEventListener("focusout", hide);
    document.addEventListener("keydown", function (event) {
      if (event.key === "Escape") hide();
      var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      var line = document.activeElement;
      if (!step || !line || !line.matches(".contexts .tokens")) return;
      var marks = Array.from(line.querySelectorAll("mark"));
      if (!marks.length) return;
      event.preventDefault();
      var from = marks.indexOf(at);
      show(marks[from < 0 ? (step > 0 ? 0 : marks.length - 1) : (from + step + marks.length) % marks.length]);
    });
  }

  // Plays the part of a recording that a button names, one at a time; a second press stops it.
  function sounds() {
    var playing = null;

    function stop() {
      if (!playing) return;
      playing.audio.pause();
      playing.button.classList.remove("playing");
      playing = null;
    }

    document.querySelectorAll(".play").forEach(function (button) {
      button.hidden = false;
      button.addEventListener("click", function () {
        var again = playing && playing.button === button;
        stop();
        if (again) return;
        var audio = document.getElementById("sound-" + button.dataset.sound);
        playing = { audio: audio, button: button };
        button.classList.add("playing");
        audio.currentTime = Number(button.dataset.start);
        audio.ontimeupdate = function () { if (audio.currentTime >= Number(button.dataset.stop)) stop(); };
        audio.onended = stop;
        audio.play().catch(stop);
      });
    });
  }

  function cards() {
    var list = document.getElementById("cards");
    var all = Array.from(list.children);
    var find = document.getElementById("find");
    var sort = document.getElementById("sort");
    var band = document.getElementById("band");
    var button = document.getElementById("open-all");
    var texts = new Map();
    document.querySelector(".controls").hidden = false;

    function text(card) {
      if (texts.has(card)) return texts.get(card);
      var parts = Array.from(card.querySelectorAll(".preview strong, .contexts .tokens, .origin, .lens code"));
      var joined = parts.map(function (part) { return part.textContent; }).join(" \n ");
      texts.set(card, joined.replace(/\s+/g, " ").toLowerCase());
      return texts.get(card);
    }

    function found(card, query) {
      if (/^#\d+$/.test(query)) return card.dataset.latent === query.slice(1);
      return !query || card.dataset.latent === query || text(card).includes(query);
    }

    function update() {
      var query = find.value.trim().replace(/\s+/g, " ").toLowerCase();
      var limits = band.value.split(" ").map(Number);
      var count = 0;
      all.forEach(function (card) {
        var density = Number(card.dataset.density);
        card.hidden = !(found(card, query) && density >= limits[0] && density <= limits[1]);
        count += card.hidden ? 0 : 1;
      });
      document.getElementById("count").textContent = count === all.length ? all.length + " shown" : count + " of " + all.length;
      document.getElementById("none").hidden = count > 0;
    }

    function reorder() {
      var sign = sort.value[0] === "-" ? -1 : 1;
      var key = sort.value.replace("-", "");
      all.sort(function (a, b) { return sign * (a.dataset[key] - b.dataset[key]) || a.dataset.order - b.dataset.order; });
      all.forEach(function (card) { list.append(card); });
    }

    function opened() {
      return all.every(function (card) { return card.hidden || card.open; });
    }

    function label() {
      button.textContent = opened() ? "Close all" : "Open all";
    }

    function go() {
      var card = /^#latent-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
      if (!card) return;
      if (card.hidden) reset();
      card.open = true;
      card.scrollIntoView();
    }

    function reset() {
      find.value = "";
      band.selectedIndex = 0;
      update();
    }

    find.addEventListener("input", update);
    band.addEventListener("change", update);
    sort.addEventListener("change", reorder);
    document.getElementById("clear").addEventListener("click", function () { reset(); find.focus(); });
    button.addEventListener("click", function () {
      var open = !opened();
      all.forEach(function (card) { if (!card.hidden) card.open = open; });
      label();
    });
    list.addEventListener("toggle", label, true);
    list.addEventListener("click", function (event) { // the address then leads a colleague to the same card
      var summary = event.target.closest("summary");
      if (summary && !summary.parentElement.open) history.replaceState(null, "", "#" + summary.parentElement.id);
    });
    addEventListener("hashchange", go);
    document.addEventListener("keydown", function (event) {
      if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
        event.preventDefault();
        find.focus();
      }
    });
    update();
    label();
    go();
  }
})();
